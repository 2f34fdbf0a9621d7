"""Over-parameterised implicit networks, simulated through their neural tangent kernel.

    network --solve--> equilibrium --linearise--> J = du/dtheta --gram--> H = J J^T --evolve--> u(t), uhat(t)

Importing this module imports no plotting, no data set and no command line, and changes no global flag.
"""

from implicit_ntk._version import __version__ as __version__
from implicit_ntk.devices import (
    device_mesh as device_mesh,
    spread_local_rows as spread_local_rows,
    spread_network as spread_network,
    spread_rows as spread_rows,
)
from implicit_ntk.dynamics import (
    RK4 as RK4,
    Adaptive as Adaptive,
    CrossEntropy as CrossEntropy,
    Euler as Euler,
    Exponential as Exponential,
    Heun as Heun,
    KrylovExponential as KrylovExponential,
    SquareLoss as SquareLoss,
    Trajectory as Trajectory,
    deviation as deviation,
    gradient_descent as gradient_descent,
    gradient_flow as gradient_flow,
    largest_step as largest_step,
    linearized_descent as linearized_descent,
    linearized_flow as linearized_flow,
    path_kernel as path_kernel,
    predict as predict,
    regime as regime,
    taylor as taylor,
)
from implicit_ntk.equilibrium import (
    GMRES as GMRES,
    LU as LU,
    Anderson as Anderson,
    Auto as Auto,
    BiCGStab as BiCGStab,
    Broyden as Broyden,
    Chord as Chord,
    ConvergenceError as ConvergenceError,
    Equilibrium as Equilibrium,
    ForwardBackward as ForwardBackward,
    ImplicitAdjoint as ImplicitAdjoint,
    Iterated as Iterated,
    JacobianFree as JacobianFree,
    Method as Method,
    MixedPicard as MixedPicard,
    Neumann as Neumann,
    Newton as Newton,
    PeacemanRachford as PeacemanRachford,
    Picard as Picard,
    ReverseAdjoint as ReverseAdjoint,
    Status as Status,
    Unrolled as Unrolled,
    fixed_point as fixed_point,
)
from implicit_ntk.jacobian import jacobian as jacobian
from implicit_ntk.kernel import (
    alignment as alignment,
    block_spectra as block_spectra,
    infinite_width as infinite_width,
    kernel_drift as kernel_drift,
    kernel_operator as kernel_operator,
    kernel_tiles as kernel_tiles,
    ntk as ntk,
    ntk_blocks as ntk_blocks,
    ntk_diagonal as ntk_diagonal,
    ntk_into as ntk_into,
    ntk_trace as ntk_trace,
    spectrum as spectrum,
)
from implicit_ntk.networks import (
    AbstractNetwork as AbstractNetwork,
    Centred as Centred,
    ConvImplicit as ConvImplicit,
    MonotoneImplicit as MonotoneImplicit,
    ReluImplicit as ReluImplicit,
    ReluImplicitFull as ReluImplicitFull,
    Scaled as Scaled,
    WeightTied as WeightTied,
    choose as choose,
    convergence as convergence,
    from_functions as from_functions,
    init as init,
    jacobian_penalty as jacobian_penalty,
    load as load,
    norm_ablations as norm_ablations,
    save as save,
    solve as solve,
    spectral_radius as spectral_radius,
    trainable as trainable,
)
