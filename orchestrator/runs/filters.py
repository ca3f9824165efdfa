"""`--where`: a filter that a person types, as an Arrow expression that reads no more of a file than it must.

Python's own parser reads the text and nothing evaluates it: what is no comparison of a column is refused.
"""

import ast
import operator
import warnings
from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dxray.orchestrator.errors import UserError
from dxray.orchestrator.runs.store import IMAGES, TRIPLE

COLUMNS = tuple(name for name in IMAGES.names if name not in TRIPLE)

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], pc.Expression]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class _Refused(Exception):
    """Its text says what of the expression is not understood."""


def parse(text: str) -> pc.Expression:
    """`status == 'fooled' and l2 > 0.5` as an Arrow expression over the columns of `IMAGES`.

    Comparisons of columns with values or with each other, `in (...)`, `'text' in name`, `is None`, joined by `and`,
    `or`, `not` and parentheses. As in SQL, a comparison with a value that is missing holds for no row.

    Raises:
        UserError: it is nothing of the kind, or a column cannot be compared with what it is compared with.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange escape: what follows says what is wrong, or nothing is
            tree = ast.parse(text.strip(), mode="eval").body
        expression = _condition(tree)
        IMAGES.empty_table().filter(expression)
    except _Refused as wrong:
        why = str(wrong)
    except SyntaxError as wrong:
        why = wrong.msg
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as wrong:
        why = str(wrong).splitlines()[0]
    except (RecursionError, MemoryError):
        why = "it is nested too deeply"
    else:
        return expression
    raise UserError(
        f"--where cannot be understood ({why}): {text[:200]!r}; expected something like "
        f"\"status == 'fooled' and l2 > 0.5\" over the columns {', '.join(COLUMNS)}"
    )


def _condition(node: ast.expr) -> pc.Expression:
    match node:
        case ast.BoolOp(op=ast.And()):
            return reduce(operator.and_, map(_condition, node.values))
        case ast.BoolOp(op=ast.Or()):
            return reduce(operator.or_, map(_condition, node.values))
        case ast.UnaryOp(op=ast.Not()):
            return ~_condition(node.operand)
        case ast.Compare():
            values = [node.left, *node.comparators]
            return reduce(operator.and_, map(_comparison, values, node.ops, values[1:]))
        case ast.Name():
            return _column(node)
    raise _Refused(f"'{ast.unparse(node)}' is no comparison")


def _comparison(left: ast.expr, how: ast.cmpop, right: ast.expr) -> pc.Expression:
    match how, right:
        case (ast.Is() | ast.Eq(), ast.Constant(value=None)):
            return _column(left).is_null()
        case (ast.IsNot() | ast.NotEq(), ast.Constant(value=None)):
            return ~_column(left).is_null()
        case (ast.NotIn(), _):
            return ~_comparison(left, ast.In(), right)
        case (ast.In(), ast.Tuple() | ast.List() | ast.Set()):
            return _column(left).isin([_value(item) for item in right.elts])
        case (ast.In(), _):
            return pc.match_substring(_column(right), str(_value(left)))
    if type(how) not in _COMPARE:
        raise _Refused("'is' compares with None only")
    return _COMPARE[type(how)](_operand(left), _operand(right))


def _operand(node: ast.expr) -> pc.Expression:
    return _column(node) if isinstance(node, ast.Name) else pc.scalar(_value(node))


def _column(node: ast.expr) -> pc.Expression:
    if not isinstance(node, ast.Name):
        raise _Refused(f"'{ast.unparse(node)}' stands where a column should")
    if node.id not in COLUMNS:
        raise _Refused(f"there is no column '{node.id}'")
    return pc.field(node.id)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise _Refused(f"'{ast.unparse(node)}' is neither a column, a number nor a text in quotes")
