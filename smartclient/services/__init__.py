"""The live state of services: who their instances are, which of them is picked, how they fare."""
