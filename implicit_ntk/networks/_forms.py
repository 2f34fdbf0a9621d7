"""What a pytree of arrays looks like, whatever its values: shapes and dtypes, `float32[5,12]`."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike, PyTree


def forms(tree: PyTree) -> list[str]:
    """Dtype and shape of each leaf, as words to compare and to show."""
    return [_form(leaf) for leaf in jax.tree.leaves(tree)]


def same_form(tree: PyTree, like: PyTree) -> bool:
    """Are structure, shapes and dtypes the same?"""
    return jax.tree.structure(tree) == jax.tree.structure(like) and forms(tree) == forms(like)


def _form(leaf: ArrayLike | jax.ShapeDtypeStruct) -> str:
    return f"{jnp.result_type(leaf)}[{','.join(map(str, jnp.shape(leaf)))}]"
