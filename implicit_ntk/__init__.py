"""Over-parameterised implicit networks, simulated through their neural tangent kernel.

    network --solve--> equilibrium --linearise--> J = du/dtheta --gram--> H = J J^T --evolve--> u(t), uhat(t)

Importing this module imports no plotting, no data set and no command line, and changes no global flag.
"""

from implicit_ntk._version import __version__ as __version__
from implicit_ntk.dynamics import Euler as Euler
from implicit_ntk.dynamics import Trajectory as Trajectory
from implicit_ntk.dynamics import gradient_flow as gradient_flow
from implicit_ntk.dynamics import linearized_flow as linearized_flow
from implicit_ntk.dynamics import predict as predict
from implicit_ntk.equilibrium import ConvergenceError as ConvergenceError
from implicit_ntk.equilibrium import Equilibrium as Equilibrium
from implicit_ntk.equilibrium import ImplicitAdjoint as ImplicitAdjoint
from implicit_ntk.equilibrium import JacobianFree as JacobianFree
from implicit_ntk.equilibrium import Method as Method
from implicit_ntk.equilibrium import Neumann as Neumann
from implicit_ntk.equilibrium import Picard as Picard
from implicit_ntk.equilibrium import ReverseAdjoint as ReverseAdjoint
from implicit_ntk.equilibrium import Status as Status
from implicit_ntk.equilibrium import Unrolled as Unrolled
from implicit_ntk.equilibrium import fixed_point as fixed_point
from implicit_ntk.jacobian import jacobian as jacobian
from implicit_ntk.kernel import ntk as ntk
from implicit_ntk.kernel import ntk_blocks as ntk_blocks
from implicit_ntk.kernel import spectrum as spectrum
from implicit_ntk.networks import AbstractNetwork as AbstractNetwork
from implicit_ntk.networks import Centred as Centred
from implicit_ntk.networks import ReluImplicit as ReluImplicit
from implicit_ntk.networks import init as init
from implicit_ntk.networks import load as load
from implicit_ntk.networks import save as save
from implicit_ntk.networks import solve as solve
from implicit_ntk.networks import trainable as trainable
