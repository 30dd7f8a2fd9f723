"""Writes what an installation is made of as a CycloneDX bill of materials: ``make sbom``.

In it are the locked Python packages with the hashes of their files, their licences, and who needs whom; the Debian
packages that ``scripts/setup`` and the Containerfile install, and the images that compose.yaml, the Containerfile and
the default of ``default_image`` name: these three without versions or digests that nobody locks. What only tests
and checks need is not shipped, and not in it.

The same checkout gives the same bytes: there is no time in it, and its serial number is made of what it says. Licences
are those that the installed packages tell of themselves; where one tells none, none is said.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator, Set
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli import settings
from scripts import lock_file
from scripts.lock_file import CHECKOUT, Locked

FILE: Final = CHECKOUT / "build" / "moonyard.cdx.json"
CONTAINERFILE: Final = CHECKOUT / "containers" / "Containerfile"
NAMESPACE: Final = uuid.UUID("5cf8a4be-0d4d-5d0c-9a4b-3c2f5f0f2c11")
LICENCE_NAME_MAXIMUM: Final = 60
"""What is longer is a sentence of a licence, and not its name."""
# A decorator of the library's hides from type checkers what its classes take and are. The schema checks what they make.
_Bom: Final[Any] = Bom
_Component: Final[Any] = Component
_DisjunctiveLicense: Final[Any] = DisjunctiveLicense
_ExternalReference: Final[Any] = ExternalReference
_HashType: Final[Any] = HashType
_XsUri: Final[Any] = XsUri
Part: TypeAlias = Any
"""A component."""


class NotInstalled(Exception):
    """A locked package whose licence cannot be read, for it is not installed as it is locked."""


def main(arguments: list[str]) -> int:
    """Write the bill of materials to a file."""
    path = Path(arguments[0]) if arguments else FILE
    try:
        text = document()
    except (NotInstalled, lock_file.LockInvalid) as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    sys.stderr.write(f"sbom: wrote {path}\n")
    return 0


def document() -> str:
    """Give the bill of materials as CycloneDX 1.6 in JSON.

    :raises LockInvalid: when the lock file lacks something.
    :raises NotInstalled: when a locked package is not installed in that version.
    """
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    locked = {package.name: package for package in lock_file.read(lock_file.RUNTIME)}
    build_only = {canonicalize_name(Requirement(text).name) for text in project["dependency-groups"]["build"]}
    components = {name: _python(package, build_only) for name, package in locked.items()}
    others = [*_debian(), *_images()]
    ours = _component(
        ComponentType.APPLICATION,
        "moonyard",
        "moonyard",
        version=project["project"]["version"],
        description=project["project"]["description"],
        licenses=[LicenseFactory().make_with_expression(project["project"]["license"])],
    )
    bom = _Bom(components=[*components.values(), *others])
    bom.metadata.component = ours
    direct = [Requirement(text) for text in project["project"]["dependencies"]]
    if unlocked := sorted({canonicalize_name(one.name) for one in direct} - set(components)):
        raise lock_file.LockInvalid(f"not locked: {', '.join(unlocked)}; `make lock` writes the lock files anew")
    bom.register_dependency(ours, [components[canonicalize_name(one.name)] for one in direct] + others)
    extras: dict[str, set[str]] = {canonicalize_name(one.name): one.extras for one in direct}
    for name, component in components.items():
        if locked[name].is_for_here:
            needed = _needs(name, extras.get(name, set())) & set(components)
            bom.register_dependency(component, [components[one] for one in needed])
    return _lasting(JsonV1Dot6(bom).output_as_string())


def _lasting(text: str) -> str:
    """Take out of a document what is another each time, and give it a serial number for what it says."""
    told: dict[str, Any] = json.loads(text)
    told["metadata"].pop("timestamp")
    told.pop("serialNumber")
    named = uuid.uuid5(NAMESPACE, json.dumps(told, sort_keys=True))
    return json.dumps(told | {"serialNumber": f"urn:uuid:{named}"}, indent=2, sort_keys=True) + "\n"


def _component(kind: ComponentType, name: str, reference: str, **fields: Any) -> Part:
    return _Component(type=kind, name=name, bom_ref=reference, **fields)


def _python(package: Locked, build_only: Set[str]) -> Part:
    url = PackageURL("pypi", name=package.name, version=package.version)
    scope = ComponentScope.REQUIRED
    if package.name in build_only:
        scope = ComponentScope.EXCLUDED
    elif not package.is_for_here:
        scope = ComponentScope.OPTIONAL
    return _component(
        ComponentType.LIBRARY,
        package.name,
        str(url),
        version=package.version,
        purl=url,
        scope=scope,
        licenses=_licences(package) if package.is_for_here else None,
        external_references=[
            _ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=_XsUri(str(url)),
                comment="the files that may be installed: one of them is",
                hashes=[_HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.sha256],
            )
        ],
    )


def _licences(package: Locked) -> list[Any]:
    told = _installed(package)
    factory = LicenseFactory()
    if expression := told.get("License-Expression"):
        return [factory.make_with_expression(expression)]
    first_line = (told.get("License") or "").strip().partition("\n")[0]  # some have the whole text there
    if first_line and len(first_line) <= LICENCE_NAME_MAXIMUM:
        return [factory.make_from_string(first_line)]
    classifiers = [text for text in told.get_all("Classifier") or [] if text.startswith("License ::")]
    return [
        _DisjunctiveLicense(name=text.rpartition(" :: ")[2]) for text in classifiers
    ]  # in classifiers' words: not SPDX


def _installed(package: Locked) -> Message:
    try:
        told = cast("Message", metadata.metadata(package.name))  # it is one, and typed as less
    except metadata.PackageNotFoundError as error:
        raise NotInstalled(f"`{package.name}` is locked and not installed; `make setup` installs it") from error
    if told["Version"] != package.version:
        raise NotInstalled(
            f"`{package.name}` is locked as {package.version} and installed as {told['Version']}; "
            "`make setup` installs what is locked"
        )
    return told


def _needs(name: str, extras: set[str]) -> set[str]:
    """Name the packages that an installed one needs, on whichever machine, with the extras that are asked of it."""
    found: set[str] = set()
    for requirement in map(Requirement, metadata.requires(name) or []):
        of_extras = re.findall(r'extra == "([^"]+)"', str(requirement.marker))
        if not of_extras or not extras.isdisjoint(of_extras):
            found.add(canonicalize_name(requirement.name))
    return found


def _debian() -> Iterator[Part]:
    setup = (CHECKOUT / "scripts" / "setup").read_text(encoding="utf-8").replace("\\\n", " ")
    containerfile = CONTAINERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    names = {
        word.rpartition("=")[2]
        for words in re.findall(r"scripts/debian-packages (.+)", setup)
        for word in words.split()
    }
    for words in re.findall(r"apt-get install (.+?)(?:&&|$)", containerfile, re.MULTILINE):
        names |= {word for word in words.split() if not word.startswith("-")}
    for name in sorted(names):
        url = PackageURL("deb", "debian", name)
        yield _component(ComponentType.LIBRARY, name, str(url), group="debian", purl=url)


def _images() -> Iterator[Part]:
    composed = msgspec.yaml.decode((CHECKOUT / "compose.yaml").read_bytes(), type=dict[str, Any])["services"]
    names = {str(service["image"]) for service in composed.values() if "build" not in service}
    names |= set(re.findall(r"^FROM (\S+)", CONTAINERFILE.read_text(encoding="utf-8"), re.MULTILINE))
    names.add(settings.SETTINGS["default_image"].options["default"])
    for name in sorted(names):
        path, _, tag = name.removeprefix("docker.io/").partition(":")
        namespace, _, short = path.rpartition("/")
        url = PackageURL("docker", namespace, short, tag)
        yield _component(ComponentType.CONTAINER, path, str(url), version=tag, purl=url)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
