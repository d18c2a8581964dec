"""Flower's content-addressed objects: a head that names type, children and length, a body, and a sha256 as the id.

    content = "<Type> <child id,child id,...> <body length>" + NUL + body        id = sha256(content) in hex

Ids make hostile contents hard, not impossible: the one who makes the tree also makes the hashes.  So everything is
checked when it is read, and nothing here follows a reference that its caller did not ask for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgefl.errors import BadInputError
from edgefl.fleet.fleet_pb2 import ObjectTree

__all__ = ["MAX_MESSAGE_BYTES", "ObjectError", "ObjectStore", "StoredObject", "object_id", "tree_ids"]

MAX_MESSAGE_BYTES = 512 * 1024 * 1024
"""Most bytes of all objects of one message, and of the arrays they unfold to."""

_MAX_OBJECTS = 65_536
# Message, RecordDict, record, Array, ArrayChunk.
_MAX_DEPTH = 5
_ID = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(rb"([A-Za-z]{1,32}) ((?:[0-9a-f]{64}(?:,[0-9a-f]{64})*)?) (0|[1-9][0-9]{0,11})")


class ObjectError(BadInputError):
    """A message whose objects break Flower's encoding or edgefl's limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object that has been checked.

    Attributes:
        children: Ids of the objects it refers to, each once.
        body: What follows the head.
    """

    children: tuple[str, ...]
    body: memoryview


class ObjectStore:
    """The objects of one message, by id.

    Attributes:
        contents: Head and body of each object.
    """

    def __init__(self, contents: Mapping[str, bytes] | None = None) -> None:
        self.contents: dict[str, bytes] = dict(contents or {})

    def add(self, kind: str, children: Iterable[str], body: bytes | memoryview) -> str:
        """Encode an object and return its id.

        Args:
            kind: Flower's name for the type, such as `ArrayChunk`.
            children: Ids of the objects it refers to; repeats are dropped, as Flower does.
            body: What follows the head.
        """
        head = f"{kind} {','.join(dict.fromkeys(children))} {len(body)}\0".encode()
        content = b"".join((head, body))
        key = object_id(content)
        self.contents[key] = content
        return key

    def get(self, key: str, kinds: Sequence[str]) -> tuple[str, StoredObject]:
        """Return the type and the parts of an object.

        Args:
            key: Its id.
            kinds: Types that are allowed here.

        Raises:
            ObjectError: If it is missing, is not what its id says, or is none of the allowed types.
        """
        content = self.contents.get(key)
        if content is None:
            raise ObjectError(f"object {key[:12]} is referred to but was not sent; expected all of a message's objects")
        if object_id(content) != key:
            raise ObjectError(f"object {key[:12]} has another sha256: it was damaged on the way or is forged")
        head, separator, _ = content.partition(b"\0")
        match = _HEAD.fullmatch(head)
        if not separator or match is None:
            raise ObjectError(f"object {key[:12]} has no head of type, children and length")
        kind = match[1].decode()
        if kind not in kinds:
            raise ObjectError(f"object {key[:12]} is of type {kind}; expected {' or '.join(kinds)}")
        body = memoryview(content)[len(head) + 1 :]
        if len(body) != int(match[3]):
            raise ObjectError(f"object {key[:12]} claims {int(match[3])} bytes and has {len(body)}")
        children = tuple(match[2].decode().split(",")) if match[2] else ()
        if len(set(children)) != len(children):
            raise ObjectError(f"object {key[:12]} names a child twice")
        return kind, StoredObject(children=children, body=body)

    def tree(self, root: str) -> ObjectTree:
        """Return the tree of ids below an object that was added here."""
        head = self.contents[root].partition(b"\0")[0].split(b" ")
        children = head[1].decode().split(",") if head[1] else []
        return ObjectTree(object_id=root, children=[self.tree(child) for child in children])


def object_id(content: bytes) -> str:
    """Return the id of an object: sha256 of head and body, in hex."""
    return hashlib.sha256(content).hexdigest()


def tree_ids(tree: ObjectTree) -> list[str]:
    """Return the ids of a tree, children before parents, each once.

    Raises:
        ObjectError: If one is no sha256, or the tree is deeper or larger than a message can be.
    """
    ids: dict[str, None] = {}
    _collect(tree, ids, depth=1)
    return list(ids)


def _collect(tree: ObjectTree, ids: dict[str, None], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ObjectError(f"a tree of objects deeper than {_MAX_DEPTH}; no Flower message is")
    for child in tree.children:
        _collect(child, ids, depth + 1)
    if _ID.fullmatch(tree.object_id) is None:
        raise ObjectError(f"{tree.object_id[:64]!r} is no object id; expected a sha256 in lower-case hex")
    ids[tree.object_id] = None
    if len(ids) > _MAX_OBJECTS:
        raise ObjectError(f"a message of more than {_MAX_OBJECTS} objects")
