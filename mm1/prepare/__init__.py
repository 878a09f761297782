"""Raw files to prepared folders; `mm1.prepare(...)` is `mm1.api.prepare_raw_data`."""

from mm1.callable_package import make_callable

make_callable(__name__)
