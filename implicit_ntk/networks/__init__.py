"""Networks: one file each, with its injection, cell, read-out and gradient factors."""

from implicit_ntk.networks import init as init
from implicit_ntk.networks._centred import Centred as Centred
from implicit_ntk.networks._choice import Choice as Choice
from implicit_ntk.networks._conv_implicit import (
    ConvImplicit as ConvImplicit,
    norm_ablations as norm_ablations,
)
from implicit_ntk.networks._convergence import convergence as convergence
from implicit_ntk.networks._factors import (
    GradientFactors as GradientFactors,
    HasGradientFactors as HasGradientFactors,
    OuterProduct as OuterProduct,
    per_output as per_output,
    unit_outputs as unit_outputs,
)
from implicit_ntk.networks._forms import forms as forms
from implicit_ntk.networks._from_functions import from_functions as from_functions
from implicit_ntk.networks._io import load as load, save as save
from implicit_ntk.networks._monotone_implicit import MonotoneImplicit as MonotoneImplicit
from implicit_ntk.networks._network import (
    AbstractNetwork as AbstractNetwork,
    check_network as check_network,
    choose as choose,
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
from implicit_ntk.networks._regularisation import (
    jacobian_penalty as jacobian_penalty,
    spectral_radius as spectral_radius,
)
from implicit_ntk.networks._relu_implicit import ReluImplicit as ReluImplicit
from implicit_ntk.networks._relu_implicit_full import ReluImplicitFull as ReluImplicitFull
from implicit_ntk.networks._scaled import Scaled as Scaled
from implicit_ntk.networks._weight_tied import WeightTied as WeightTied
from implicit_ntk.networks._wrapper import AbstractOutputWrapper as AbstractOutputWrapper
