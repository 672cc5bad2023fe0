"""The list of images: ``containers/images.yaml``, read strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobmeter import strict
from jobmeter.errors import ImageError, ImageRequestError
from jobmeter.runtime import Architecture
from jobmeter.spec import Line
from jobmeter.templating import template_folder

Base = Literal["registry", "debian"]
DEFINITIONS = "containers"


class RegistryImage(strict.StrictModel):
    """An image of a vendor.

    Args:
        image: Its name with the registry's host.
        tag: The version.
        digest: Of its index over all architectures; None where it is not known for certain.
    """

    image: Annotated[Line, Field(pattern=r"^[a-z0-9.-]+(/[a-z0-9._-]+)+$")]
    tag: Annotated[Line, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None

    @property
    def reference(self) -> str:
        """Its content where that is pinned, else its version: no runtime takes both."""
        return f"{self.image}@{self.digest}" if self.digest else f"{self.image}:{self.tag}"


class Image(strict.StrictModel):
    """One image of the list; what the fields mean stands at the top of ``images.yaml``."""

    definition: Annotated[Line, Field(pattern=r"^[a-z0-9-]+\.def\.j2$")]
    program: Line
    licence: Line
    architectures: list[Architecture] = Field(min_length=1)
    registry: RegistryImage | None = None
    debian: list[Line] = Field(default_factory=list)
    optional: list[Line] = Field(default_factory=list)
    python: list[Line] = Field(default_factory=list)
    requirements: bool = False
    project: bool = False
    space_bytes: int = Field(ge=0)

    @model_validator(mode="after")
    def _has_a_base(self) -> Image:
        if not self.bases:
            raise ValueError("it has neither 'registry' nor 'debian'; give it one of them")
        return self

    @property
    def bases(self) -> tuple[Base, ...]:
        """From what it can be built."""
        every: Mapping[Base, object] = {"registry": self.registry, "debian": self.debian}
        return tuple(base for base, source in every.items() if source)

    @property
    def is_ours(self) -> bool:
        """Whether a part of it comes from here, so that no registry has it whole."""
        return bool(self.python) or self.requirements or self.project


class _Catalogue(strict.StrictModel):
    images: dict[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], Image]


def read_catalogue() -> Mapping[str, Image]:
    """Return every image of the list by its name.

    Raises:
        ImageError: the list is wrong.
    """
    path = template_folder(DEFINITIONS) / "images.yaml"
    return strict.read(_Catalogue, path, ImageError)[0].images


def chosen(names: Iterable[str], catalogue: Mapping[str, Image]) -> Mapping[str, Image]:
    """Return the images called ``names``, or all when there are none.

    Raises:
        ImageRequestError: a name is unknown.
    """
    wanted = list(dict.fromkeys(names)) or list(catalogue)
    for name in wanted:
        if name not in catalogue:
            raise ImageRequestError(
                f"image {name!r} is unknown; {strict.nearest(name, list(catalogue))}"
            )
    return {name: catalogue[name] for name in wanted}
