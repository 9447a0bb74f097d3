"""How the Kubernetes API is reached: as every pod knows it, or as a kubeconfig says."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..yaml_loader import bounded

MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def access_to(server: str | None, token_file: Any, ca_file: Any) -> dict[str, Any]:
    """How the API is reached: as said, as a pod, or as KUBECONFIG's current context says."""
    inside = os.environ.get("KUBERNETES_SERVICE_HOST")
    if server is None and not inside:
        path = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
        if not path.exists():
            raise ValueError(f"Kubernetes: neither in a cluster nor with a kubeconfig ({path}); give its server=")
        return _from_kubeconfig(path)
    if server is None:
        host = f"[{inside}]" if ":" in str(inside) else inside
        server = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    found: dict[str, Any] = {"server": server}
    token_file = token_file or MOUNTED / "token"
    ca_file = ca_file or MOUNTED / "ca.crt"
    if Path(token_file).exists():
        found["token_file"] = token_file
    if Path(ca_file).exists():
        found["ca_file"] = str(ca_file)
    if (MOUNTED / "namespace").exists():
        found["namespace"] = (MOUNTED / "namespace").read_text("utf-8").strip()
    return found


def _from_kubeconfig(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ImportError("a kubeconfig needs the package PyYAML: pip install 'smartclient[yaml]'") from None
    said = yaml.load(path.read_text("utf-8"), bounded(yaml)) or {}

    def named(kind: str, name: Any) -> dict[str, Any]:
        for one in said.get(f"{kind}s") or ():
            if one.get("name") == name:
                return dict(one.get(kind) or {})
        raise ValueError(f"Kubernetes: {path} has no {kind} {name!r}")

    context = named("context", said.get("current-context"))
    cluster, user = named("cluster", context.get("cluster")), named("user", context.get("user"))
    found: dict[str, Any] = {"server": cluster["server"], "namespace": context.get("namespace")}
    if any(name in user for name in ("exec", "auth-provider")):
        raise ValueError(f"Kubernetes: the user of {path} logs in by a program; give token_file= or token")
    found["verify"] = _tls(path.parent, cluster, user)
    if user.get("tokenFile"):
        found["token_file"] = path.parent / user["tokenFile"]
    found["token"] = user.get("token")
    return found


def _tls(home: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Any:
    """Certificates come as files, or as their content."""
    if cluster.get("insecure-skip-tls-verify"):
        return False
    if not str(cluster["server"]).startswith("https"):
        return True
    data = cluster.get("certificate-authority-data")
    file = cluster.get("certificate-authority")
    context = ssl.create_default_context(
        cafile=str(home / file) if file else None, cadata=base64.b64decode(data).decode() if data else None
    )
    if user.get("client-certificate") and user.get("client-key"):
        context.load_cert_chain(home / user["client-certificate"], home / user["client-key"])
    elif user.get("client-certificate-data") and user.get("client-key-data"):
        with tempfile.TemporaryDirectory() as folder:  # OpenSSL takes files only
            paths = [Path(folder) / "certificate", Path(folder) / "key"]
            for path, name in zip(paths, ("client-certificate-data", "client-key-data"), strict=True):
                path.touch(0o600)
                path.write_bytes(base64.b64decode(user[name]))
            context.load_cert_chain(str(paths[0]), str(paths[1]))
    return context
