import jax, numpy as np, pytest
import jax.numpy as jnp
import implicit_ntk as ink
import equinox as eqx
def test_a(key, x64):
    net=ink.ReluImplicit.init(key,3,12,trained=("A","W","b"), activation=jnp.sin)
    X=jax.random.normal(key,(4,3))
    for n in (net, ink.Centred(net)):
        for k in ("outer","autodiff","dense"):
            J=ink.jacobian(n,X,kind=k)
            J.gram(); J.blocks(J); J.mv(J.rmv(jnp.ones(4)))
            jax.vmap(J.mv)(jax.vmap(J.rmv)(jnp.eye(4)))
            ink.ntk(n,X,X,kind=k)
            jax.grad(lambda n: ink.ntk(n,X,kind=k).sum(), allow_int=True)(n)
            jax.jit(lambda n: ink.ntk(n,X,kind=k).sum())(n)
        n(X)
        jax.grad(lambda n: n(X).sum())(n)
    nets=eqx.filter_vmap(lambda k: ink.ReluImplicit.init(k,3,12))(jax.random.split(key,3))
    eqx.filter_vmap(lambda n: ink.ntk(n,X))(nets)
def test_np(key,x64):
    net=ink.ReluImplicit.init(key,3,12)
    X=np.ones((4,3))
    for f in (net, lambda X:ink.ntk(net,X), lambda X:ink.jacobian(net,X), lambda X: ink.solve(net,X)):
        try: f(X)
        except Exception as e: print(type(e), str(e)[:300])
    assert 0
def test_bad(key):
    from jaxtyping import config
    config.update("jaxtyping_disable", True)
    net=ink.ReluImplicit.init(key,3,12)
    for f in (net, lambda X:ink.ntk(net,X), lambda X:ink.jacobian(net,X), lambda X: ink.solve(net,X)):
        try: f(np.ones((3)))
        except Exception as e: print(type(e), str(e)[:300])
    try: ink.ReluImplicit.init(key,"3",12)
    except Exception as e: print(type(e), str(e)[:300])
    config.update("jaxtyping_disable", False)
    assert 0
