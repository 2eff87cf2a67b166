"""How a replaced password hash is remembered: by a digest, which tells nothing about the password."""

from hashlib import sha256


def digest_hash(password_hash: str) -> str:
    """`password_hash` is as Dovecot's passwd-file has it. Its salt makes the digest differ for equal passwords."""
    return sha256(password_hash.encode()).hexdigest()
