"""The operator `J`, three ways: gradient factors, autodiff, dense; each the oracle of the others."""

from implicit_ntk.jacobian._autodiff import AutodiffJacobian as AutodiffJacobian
from implicit_ntk.jacobian._dense import DenseJacobian as DenseJacobian
from implicit_ntk.jacobian._jacobian import build as build
from implicit_ntk.jacobian._jacobian import check_request as check_request
from implicit_ntk.jacobian._jacobian import default_kind as default_kind
from implicit_ntk.jacobian._jacobian import from_linearization as from_linearization
from implicit_ntk.jacobian._jacobian import jacobian as jacobian
from implicit_ntk.jacobian._jacobian import solves_of as solves_of
from implicit_ntk.jacobian._linearization import Linearization as Linearization
from implicit_ntk.jacobian._linearization import check_method as check_method
from implicit_ntk.jacobian._linearization import linearize as linearize
from implicit_ntk.jacobian._operator import AbstractJacobian as AbstractJacobian
from implicit_ntk.jacobian._outer import OuterProductJacobian as OuterProductJacobian
