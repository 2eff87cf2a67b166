"""Mailkeep builds a hardened Debian mail server from one YAML file and proves that it withstands abuse."""
