"""The solver that is left to the network to choose."""

from implicit_ntk.equilibrium._anderson import Anderson


class Auto(Anderson):
    """Whatever suits the cell: every entry that takes a network puts `choose(net)` in its place.

    That goes by the form of the cell and by its certificate, and says which solvers and why. The linear
    solver of an implicit adjoint is chosen with it. The certificate costs some fifty products with a
    vector at each call: `method = choose(net).method` pays that once. Inside a transformation, where
    its value is unknown, the form alone decides.

    For a bare map, of which nothing is known, it is `Anderson`.
    """
