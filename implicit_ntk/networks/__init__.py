"""Networks: one file each, with its injection, cell, read-out and gradient factors."""

from implicit_ntk.networks import init as init
from implicit_ntk.networks._centred import Centred as Centred
from implicit_ntk.networks._factors import (
    GradientFactors as GradientFactors,
    HasGradientFactors as HasGradientFactors,
    OuterProduct as OuterProduct,
)
from implicit_ntk.networks._forms import forms as forms
from implicit_ntk.networks._io import load as load, save as save
from implicit_ntk.networks._network import (
    AbstractNetwork as AbstractNetwork,
    solve as solve,
    solve_injected as solve_injected,
)
from implicit_ntk.networks._norm import operator_norm as operator_norm
from implicit_ntk.networks._parameters import (
    as_tangent as as_tangent,
    check_tangent as check_tangent,
    trainable as trainable,
    trained_leaves as trained_leaves,
    with_leaves as with_leaves,
)
from implicit_ntk.networks._relu_implicit import ReluImplicit as ReluImplicit
