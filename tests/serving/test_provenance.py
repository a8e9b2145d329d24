"""A signed statement in the file: who reads it finds it valid, and the video is as it was."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.serving.harness import PROMPT, running

from mochi.core.errors import OutputError, RequestError
from mochi.serving.examples import PAGE
from mochi.serving.provenance import Signer
from mochi.serving.settings import read_settings
from mochi.video.metadata import read_request
from mochi.video.reader import iter_frames

CLIP = PAGE / "examples" / "red-circle.mp4"


def name(text: str) -> x509.Name:
    parts = [(NameOID.ORGANIZATION_NAME, "A test"), (NameOID.COMMON_NAME, text)]
    return x509.Name([x509.NameAttribute(*part) for part in parts])


def certificate(subject: str, public: object, issuer: str, signer: object, ca: bool) -> bytes:
    now = datetime.now(UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    built = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if not ca:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        built = built.add_extension(purpose, critical=False)
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return built.sign(signer, digest).public_bytes(serialization.Encoding.PEM)


def keys(folder: Path, kind: str = "ec") -> tuple[Path, Path]:
    """A certificate of an authority of our own, with its chain, and its key."""

    def new() -> object:
        if kind == "ec":
            return ec.generate_private_key(ec.SECP256R1())
        return ed25519.Ed25519PrivateKey.generate()

    authority, mine = new(), new()
    chain = certificate("signer", mine.public_key(), "authority", authority, ca=False)
    chain += certificate("authority", authority.public_key(), "authority", authority, ca=True)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(
        mine.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "chain.pem", folder / "key.pem"


def statement(video: Path) -> dict[str, object]:
    with c2pa.Reader(video) as reader:
        assert reader.get_validation_state() in ("Valid", "Trusted"), reader.json()
        found = json.loads(reader.json())
    return dict(found["manifests"][found["active_manifest"]])


@pytest.mark.parametrize("kind", ["ec", "ed25519"])
def test_a_reader_finds_it_valid(tmp_path: Path, kind: str) -> None:
    video = Path(shutil.copy(CLIP, tmp_path / "a.mp4"))
    signer = Signer(*keys(tmp_path, kind))
    signer.sign(video, "genmoai/mochi-1")
    found = statement(video)
    (actions,) = (it["data"]["actions"] for it in found["assertions"] if "actions" in it["label"])
    (made,) = actions
    assert made["action"] == "c2pa.created"
    assert made["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert made["parameters"]["model"] == "genmoai/mochi-1"
    assert read_request(video) == read_request(CLIP)
    pairs = zip(iter_frames(video), iter_frames(CLIP), strict=True)
    assert all((one == other).all() for one, other in pairs)
    signed = video.read_bytes()
    signer.sign(video, "genmoai/mochi-1")
    assert video.read_bytes() == signed  # once is enough
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "chain.pem", "key.pem"]


def test_a_change_is_noticed(tmp_path: Path) -> None:
    video = Path(shutil.copy(CLIP, tmp_path / "a.mp4"))
    Signer(*keys(tmp_path)).sign(video, "a/b")
    content = bytearray(video.read_bytes())
    content[-100] ^= 1
    video.write_bytes(content)
    with c2pa.Reader(video) as reader:
        assert reader.get_validation_state() == "Invalid"


def test_what_does_not_sign(tmp_path: Path) -> None:
    chain, key = keys(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, strange = keys(other)
    (tmp_path / "text").write_text("no key")
    for wrong, field in (
        ((tmp_path / "none", key), "c2pa_certificate"),
        ((tmp_path / "text", key), "c2pa_certificate"),
        ((chain, tmp_path / "text"), "c2pa_key"),
        ((chain, chain), "c2pa_key"),
    ):
        with pytest.raises(RequestError, match=field):
            Signer(*wrong)
    with pytest.raises(RequestError, match="c2pa"):
        Signer(chain, strange).check(CLIP, tmp_path)
    with pytest.raises(RequestError, match="come together"):
        read_settings(data=tmp_path, c2pa_key=key)


def test_a_video_that_cannot_be_signed_stays(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"no video")
    with pytest.raises(OutputError, match="cannot be signed"):
        Signer(*keys(tmp_path)).sign(video, "a/b")
    assert video.read_bytes() == b"no video"
    assert not list(tmp_path.glob("*.signed"))


def test_a_server_with_a_certificate(tmp_path: Path) -> None:
    chain, key = keys(tmp_path)
    with running(tmp_path / "data", c2pa_certificate=chain, c2pa_key=key) as server:
        job = server.ended(server.create(f"real {PROMPT}")["id"])
        assert job["status"] == "succeeded"
        content = server.http.get(job["output"]).content
    (tmp_path / "got.mp4").write_bytes(content)
    said = json.dumps(statement(tmp_path / "got.mp4"))
    assert "genmoai/mochi-1" in said
    assert PROMPT not in said
