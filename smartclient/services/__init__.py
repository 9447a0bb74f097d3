"""The live state of services: their instances, which of them is picked, and their health."""
