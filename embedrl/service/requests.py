"""What programs ask a service, and how its texts and pictures become sides: no name of a file is ever followed."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from embedrl.data.in_memory import picture_of_bytes
from embedrl.errors import DataError
from embedrl.service.options import ServiceLimits
from embedrl.types import ImageSource, Side


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ItemBody(_Strict):
    """A text, a picture, or both.

    Attributes:
        text: The text.
        image: The picture: base64, or a `data:` URL of it.
    """

    text: str | None = None
    image: str | None = None


class EmbeddingsBody(BaseModel):
    """`POST /v1/embeddings`, in OpenAI's form; pictures as items of `input`. Fields of it that mean nothing here pass.

    Attributes:
        input: A text or an item, or a list of them.
        model: Any name, or that of the model.
        encoding_format: Numbers, or base64 of float32.
        dimensions: None, or the length of a vector: a model trained for shorter ones (Matryoshka) gives those as well.
        role: Whether the items search, or are what others search for.
    """

    input: str | ItemBody | list[str | ItemBody]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    role: Literal["query", "target"] = "query"


class RerankBody(BaseModel):
    """`POST /v1/rerank`, in the form of Jina and Cohere.

    Attributes:
        query: A text or an item.
        documents: Texts or items.
        top_n: Return this many, the best; None: all.
        model: Any name.
        return_documents: Whether to repeat the texts.
    """

    query: str | ItemBody
    documents: list[str | ItemBody] = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    model: str | None = None
    return_documents: bool = False


class SearchBody(_Strict):
    """`POST /search`.

    Attributes:
        text: The query's text.
        image: Its picture: base64, or a `data:` URL of it.
        k: Number of hits.
        where: Only rows for which this SQL condition over the index's columns holds.
        reason: Let the Reasoner write the query's T-CoT first.
        hybrid: Rank by the words of `text`, too.
        rerank: Have the reranker order this many of the best candidates anew; 0: none.
    """

    text: str | None = None
    image: str | None = None
    k: int = Field(10, ge=1)
    where: str | None = Field(None, max_length=2000)
    reason: bool = False
    hybrid: bool = False
    rerank: int = Field(0, ge=0)


def as_list(given: str | ItemBody | list[str | ItemBody]) -> list[str | ItemBody]:
    """One item as a list of one."""
    return given if isinstance(given, list) else [given]


def to_sides(items: list[str | ItemBody], limits: ServiceLimits, names: str = "input") -> list[Side]:
    """The items as sides, their pictures decoded.

    Args:
        items: The items.
        limits: The service's bounds.
        names: The field's name for errors.

    Raises:
        DataError: If there are too many, or one is empty, too long, or holds a broken picture.
    """
    if not items:
        raise DataError(f"{names}: empty; give at least one item")
    if len(items) > limits.max_items:
        raise DataError(f"{names}: {len(items)} items, more than {limits.max_items}; send them in parts")
    return [to_side(item, limits, f"{names}[{i}]" if len(items) > 1 else names) for i, item in enumerate(items)]


def to_side(item: str | ItemBody, limits: ServiceLimits, where: str) -> Side:
    """An item as a side.

    Raises:
        DataError: See `to_sides`.
    """
    body = ItemBody(text=item) if isinstance(item, str) else item
    text = body.text or ""
    if len(text) > limits.max_text:
        raise DataError(f"{where}: a text of {len(text)} characters, more than {limits.max_text}; shorten it")
    images = (decode_picture(body.image, limits, where),) if body.image else ()
    side = Side(text, images)
    if side.is_empty:
        raise DataError(f"{where}: neither a text nor a picture")
    return side


def decode_picture(encoded: str, limits: ServiceLimits, where: str) -> ImageSource:
    """A picture of a request.

    Args:
        encoded: Base64, or a `data:` URL of it.
        limits: The service's bounds.
        where: Its name for errors.

    Raises:
        DataError: If it is an address, not base64, no picture, broken or too large.
    """
    text = encoded.strip()
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise DataError(f"{where}: a data: URL that is not base64; send the picture as base64")
    elif "://" in text[:32]:
        raise DataError(f"{where}: an address; nothing is fetched here, send the picture itself as base64")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: a picture that is not base64 ({error})") from error
    return picture_of_bytes(content, f"the picture of {where}", limits.max_pixels)


def shortened(row: NDArray[np.float32], dim: int | None) -> NDArray[np.float32]:
    """The first numbers of a unit vector, as a unit vector; None: all."""
    if dim is None or dim == len(row):
        return row
    return row[:dim] / np.linalg.norm(row[:dim])


def vector_of(row: Any, encoding: Literal["float", "base64"]) -> list[float] | str:
    """A vector as the answer holds it."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode() if encoding == "base64" else row.tolist()
