import jax, jax.numpy as jnp, numpy as np, pytest
from implicit_ntk.equilibrium import *
def test_probe():
    import traceback
    k=jax.random.key(0)
    A=jax.random.normal(k,(5,5))*.15; phi=jax.random.normal(jax.random.key(1),(3,5))
    def tanh(z,a):
        A,phi=a
        return jnp.tanh(z@A+phi)
    z0=jnp.zeros((3,5))
    def t(name, fn):
        try: print(name, '->', fn())
        except Exception as e: print(name, '!!', type(e).__name__, str(e)[:1500])
    for adj in (ImplicitAdjoint(),ReverseAdjoint(),Unrolled(),JacobianFree()):
      for pol in ("raise","nan","report"):
        m=Method(adjoint=adj,on_failure=pol, solver=Picard(max_steps=40))
        t('plain',lambda: fixed_point(tanh,z0,(A,phi),1,m).steps)
        t('grad',lambda: jax.grad(lambda A: fixed_point(tanh,z0,(A,phi),1,m).z.sum())(A).shape)
        t('jgrad',lambda: jax.jit(jax.grad(lambda A: fixed_point(tanh,z0,(A,phi),1,m).z.sum()))(A).shape)
        t('hess',lambda: jax.jit(jax.vmap(jax.jacrev(lambda A: fixed_point(tanh,z0,(A,phi),1,m).z.sum())))(jnp.stack([A,A])).shape)
    from jaxtyping import config
    for dis in (False, True):
        config.update("jaxtyping_disable", dis)
        t('m', lambda: Method(solver=3))
        t('m', lambda: fixed_point(tanh,z0,(A,phi),1,Picard()))
        t('m', lambda: fixed_point(tanh,np.zeros((3,5)),(A,phi),1))
        t('m', lambda: fixed_point(lambda z,a:.5*z+a,0.,1.))
        t('m', lambda: Picard(rtol=0))
    config.update("jaxtyping_disable", False)
