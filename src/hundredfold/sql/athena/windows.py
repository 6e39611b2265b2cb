"""Window functions in forms that Athena refuses after it has accepted the grammar."""

from __future__ import annotations

from sqlglot import exp

_OF_OTHER_ROWS = (exp.Lag, exp.Lead)


def is_distinct_window(node: exp.Expr) -> bool:
    return isinstance(node, exp.Window) and isinstance(_function(node).this, exp.Distinct)


def is_filtered_window(node: exp.Expr) -> bool:
    return isinstance(node, exp.Window) and isinstance(node.this, exp.Filter)


def is_ordered_argument_of_window(node: exp.Expr) -> bool:
    """Return whether a function over a window orders its own argument."""
    return isinstance(node, exp.Window) and isinstance(_function(node).this, exp.Order)


def has_frame_without_effect(node: exp.Expr) -> bool:
    """Return whether lag or lead has a frame, in its own window or in one that it names."""
    return _is_lag(node) and any(window.args.get("spec") for window in _windows_of(node))


def has_no_order(node: exp.Expr) -> bool:
    """Return whether lag or lead has no order of the rows."""
    return _is_lag(node) and not any(window.args.get("order") for window in _windows_of(node))


def _is_lag(node: exp.Expr) -> bool:
    return isinstance(node, exp.Window) and isinstance(_function(node), _OF_OTHER_ROWS)


def _function(window: exp.Window) -> exp.Expr:
    """Return the function that is called over a window."""
    node = window.this
    while isinstance(node, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        node = node.this
    assert isinstance(node, exp.Expr)
    return node


def _windows_of(window: exp.Expr) -> list[exp.Expr]:
    """Return a window and the named ones that it extends."""
    select = window.find_ancestor(exp.Select)
    named = {
        each.name.lower(): each for each in (select.args.get("windows") or () if select else ())
    }
    found = [window]
    while (name := found[-1].alias.lower()) in named:
        found.append(named.pop(name))
    return found
