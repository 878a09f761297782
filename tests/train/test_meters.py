"""Means of metrics between two lines."""

import torch

from mm1.nn.model import MeanMetric
from mm1.train.metrics import Meter


def mean(total: float, count: float) -> MeanMetric:
    return MeanMetric(torch.tensor(total), torch.tensor(count))


def test_a_mean_is_over_all_targets_since_the_last_line() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add({"loss": mean(6.0, 2.0), "loss/text": mean(0.0, 0.0)})
    meter.add({"loss": mean(1.0, 2.0), "loss/text": mean(1.0, 2.0)})
    meter.add({"loss": mean(1.0, 4.0)})
    meter.add_values(norm=torch.tensor(2.0))
    meter.add_values(norm=torch.tensor(5.0))
    assert meter.read() == {"loss": 1.0, "loss/text": 0.5, "norm": 3.5}
    meter.add({"loss": mean(3.0, 1.0)})
    assert meter.read() == {"loss": 3.0}
    assert meter.read() == {}


def test_a_restored_meter_goes_on() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add({"loss": mean(6.0, 2.0)})
    other = Meter(torch.device("cpu"))
    other.restore(meter.state())
    other.add({"loss": mean(2.0, 2.0), "accuracy": mean(1.0, 2.0)})
    assert other.read() == {"loss": 2.0, "accuracy": 0.5}
