"""Training; `mm1.train(...)` is `mm1.api.train_recipe`."""

from mm1.callable_package import make_callable

make_callable(__name__)
