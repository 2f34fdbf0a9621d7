"""The operator `J`, three ways: gradient factors, autodiff, dense; each the oracle of the others."""

from implicit_ntk.jacobian._autodiff import AutodiffJacobian as AutodiffJacobian
from implicit_ntk.jacobian._dense import DenseJacobian as DenseJacobian
from implicit_ntk.jacobian._jacobian import (
    build as build,
    check_request as check_request,
    default_kind as default_kind,
    from_linearization as from_linearization,
    jacobian as jacobian,
    solves_of as solves_of,
)
from implicit_ntk.jacobian._linearization import (
    Linearization as Linearization,
    adjoint_products as adjoint_products,
    adjoint_states as adjoint_states,
    implicit_adjoint as implicit_adjoint,
    linearize as linearize,
)
from implicit_ntk.jacobian._operator import (
    AbstractJacobian as AbstractJacobian,
    require_gram as require_gram,
)
from implicit_ntk.jacobian._outer import OuterProductJacobian as OuterProductJacobian
from implicit_ntk.jacobian._tiles import (
    held_bytes as held_bytes,
    jacobian_tiles as jacobian_tiles,
    prepared as prepared,
    require_concrete as require_concrete,
    row_tiles as row_tiles,
    rows_within as rows_within,
    slim as slim,
    solve_bytes as solve_bytes,
    solved as solved,
    tile_rows as tile_rows,
)
