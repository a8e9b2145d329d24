"""Where a video comes from, signed into its file (C2PA), when the server has a certificate.

The statement says that an algorithm made it, which program and which model. Neither the prompt nor
anybody's name is in it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mochi
from mochi.core.errors import OutputError, RequestError

_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_TYPE = "video/mp4"


class Signer:
    """Signs files with one certificate. Thread safe.

    Args:
        certificate: PEM, the signer's first, then those that vouch for it.
        key: PEM of its private key.

    Raises:
        RequestError: the package for it is not here, or the two files do not sign.
    """

    def __init__(self, certificate: Path, key: Path):
        try:
            import c2pa
        except ImportError:
            rule = "needs a package that is not here: pip install 'mochi-video[provenance]'"
            raise RequestError("c2pa_certificate", str(certificate), rule) from None
        self._c2pa = c2pa
        chain, secret = _read("c2pa_certificate", certificate), _read("c2pa_key", key)
        info = c2pa.C2paSignerInfo(_algorithm(secret, key), chain, secret, None)
        try:
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise RequestError("c2pa_certificate", str(certificate), _rule(error)) from None
        self._lock = threading.Lock()

    def sign(self, video: Path, model: str) -> None:
        """Put the signed statement into an mp4, in its place; one that has one stays as it is.

        Raises:
            OutputError: it cannot be signed or written; the file is as it was.
        """
        part = video.with_name(f"{video.name}.signed")
        try:
            if (signed := self._c2pa.Reader.try_create(video)) is not None:
                signed.close()
                return
            builder = self._c2pa.Builder(_statement(model, video.name))
            with self._lock, video.open("rb") as source, part.open("w+b") as target:
                builder.sign(self._signer, _TYPE, source, target)
            os.replace(part, video)
        except (OSError, self._c2pa.C2paError) as error:
            raise OutputError(f"the video cannot be signed: {error}") from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def check(self, sample: Path, work: Path) -> None:
        """Sign a copy of a sample, so that a key that does not fit is known at the start.

        Raises:
            RequestError: it does not sign.
        """
        copy = work / "signed.mp4"
        try:
            copy.write_bytes(sample.read_bytes())
            self.sign(copy, "check")
        except OutputError as error:
            raise RequestError("c2pa_key", "...", f"does not sign: {error}") from None
        finally:
            copy.unlink(missing_ok=True)


def _statement(model: str, name: str) -> str:
    software = {"name": "Mochi", "version": mochi.__version__}
    made = {
        "action": "c2pa.created",
        "digitalSourceType": _SOURCE,
        "softwareAgent": software,
        "parameters": {"model": model},
    }
    statement: Mapping[str, Any] = {
        "claim_generator_info": [software],
        "title": name,
        "format": _TYPE,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}],
    }
    return json.dumps(statement)


def _read(field: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(field, str(path), f"cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise RequestError(field, str(path), "is no PEM file")
    return content


def _algorithm(secret: bytes, path: Path) -> bytes:
    """The name of what a private key signs with.

    Raises:
        RequestError: it is no key, or none that C2PA knows.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    rule = "is no private key without a password of P-256, P-384, P-521, Ed25519 or RSA"
    try:
        key = load_pem_private_key(secret, None)
    except (ValueError, TypeError):
        raise RequestError("c2pa_key", str(path), rule) from None
    curves = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    raise RequestError("c2pa_key", str(path), rule)


def _rule(error: Exception) -> str:
    return f"does not sign: {' '.join(str(error).split())}"
