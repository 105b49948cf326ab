"""One language for the shape of JSON that comes from a file: what anybody may have made.

=========================  ======================================================================
shape                      fits
=========================  ======================================================================
``str``, ``int``, ...      a value of that type; true and false are no numbers
``None``                   null
``(int, float, None)``     what fits one of these shapes
``[shape]``                a list, of which every item fits
``{"name": shape}``        an object that has this name; it may have others
``{"name?": shape}``       the same, but the name may be missing, or null
``{"name~": shape}``       the same, but the name may be missing; null fits where the shape says so
``{"*": shape}``           an object of which every value fits
=========================  ======================================================================
"""

from __future__ import annotations

from typing import Any

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def mismatch(value: Any, shape: Any, where: str) -> str:
    """Name the first place that does not fit: ``"model.args is a number, expected an object"``.

    ``where`` is what to call the value; the answer is empty where all fits.
    """
    if isinstance(shape, dict):
        return _of_object(value, shape, where)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is {_KINDS[type(value)]}, expected a list"
        if _all_plain(value, shape[0]):
            return ""
        parts = (mismatch(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))
        return next((part for part in parts if part), "")
    choices = shape if isinstance(shape, tuple) else (shape,)
    if any(_has_kind(value, choice) for choice in choices):
        fitting = [choice for choice in choices if _has_kind(value, choice)]
        inside = [choice for choice in fitting if isinstance(choice, (dict, list))]
        return mismatch(value, inside[0], where) if len(inside) == len(fitting) else ""
    wanted = " or ".join(_KINDS[_kind(choice)] for choice in choices)
    return f"{where} is {_KINDS[type(value)]}, expected {wanted}"


def _all_plain(value: list[Any], shape: Any) -> bool:
    """Tell at once whether all items are of the very types that a shape without parts asks for.

    Of a thousand classes three tables have a million numbers each.
    """
    choices = shape if isinstance(shape, tuple) else (shape,)
    plain = {_kind(choice) for choice in choices if not isinstance(choice, (dict, list))}
    return set(map(type, value)) <= plain


def _of_object(value: Any, shape: dict[str, Any], where: str) -> str:
    if not isinstance(value, dict):
        return f"{where} is {_KINDS[type(value)]}, expected an object"
    for key, inner in shape.items():
        name = key.rstrip("?~")
        if key == "*":
            parts = (mismatch(value[k], inner, f"{where}.{k}") for k in value if k not in shape)
            found = next((part for part in parts if part), "")
        elif name not in value:
            found = f"{where}.{name} is missing" if name == key else ""
        elif key.endswith("?") and value[name] is None:
            found = ""
        else:
            found = mismatch(value[name], inner, f"{where}.{name}")
        if found:
            return found
    return ""


def any_may_miss(shape: Any) -> Any:
    """Give the same shape of objects in which every name may be missing."""
    if not isinstance(shape, dict):
        return shape
    return {f"{name}~": any_may_miss(inner) for name, inner in shape.items()}


def _kind(shape: Any) -> type:
    """Name the type of JSON value that a shape without alternatives asks for."""
    if shape is None:
        return type(None)
    return shape if isinstance(shape, type) else type(shape)


def _has_kind(value: Any, shape: Any) -> bool:
    kind = _kind(shape)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
