"""Over-parameterised implicit networks, simulated through their neural tangent kernel.

    network --solve--> equilibrium --linearise--> J = du/dtheta --gram--> H = J J^T --evolve--> u(t), uhat(t)

Importing this module imports no plotting, no data set and no command line, and changes no global flag.
"""

from implicit_ntk._version import __version__ as __version__
from implicit_ntk.dynamics import (
    Euler as Euler,
    Trajectory as Trajectory,
    gradient_flow as gradient_flow,
    linearized_flow as linearized_flow,
    predict as predict,
)
from implicit_ntk.equilibrium import (
    ConvergenceError as ConvergenceError,
    Equilibrium as Equilibrium,
    ImplicitAdjoint as ImplicitAdjoint,
    JacobianFree as JacobianFree,
    Method as Method,
    Neumann as Neumann,
    Picard as Picard,
    ReverseAdjoint as ReverseAdjoint,
    Status as Status,
    Unrolled as Unrolled,
    fixed_point as fixed_point,
)
from implicit_ntk.jacobian import jacobian as jacobian
from implicit_ntk.kernel import ntk as ntk, ntk_blocks as ntk_blocks, spectrum as spectrum
from implicit_ntk.networks import (
    AbstractNetwork as AbstractNetwork,
    Centred as Centred,
    ReluImplicit as ReluImplicit,
    init as init,
    load as load,
    save as save,
    solve as solve,
    trainable as trainable,
)
