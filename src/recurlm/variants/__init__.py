"""The registry: a cell's name → its class, and nothing else."""

from recurlm.variants.base import Recurrence
from recurlm.variants.gru import GRU
from recurlm.variants.lstm import LSTM
from recurlm.variants.rnn import RNN

REGISTRY: dict[str, type[Recurrence]] = {
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
}
