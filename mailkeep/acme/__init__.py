"""Certificates by ACME (RFC 8555): what runs on the server, and a new key in place of the old one."""
