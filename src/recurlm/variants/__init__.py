"""The registry: a cell's name → its class, and nothing else."""

from recurlm.variants.base import Recurrence
from recurlm.variants.deltanet import DeltaNet
from recurlm.variants.deltaproduct import DeltaProduct
from recurlm.variants.gated_deltanet import GatedDeltaNet
from recurlm.variants.gla import GLA
from recurlm.variants.gru import GRU
from recurlm.variants.hgrn import HGRN
from recurlm.variants.hgrn2 import HGRN2
from recurlm.variants.indrnn import IndRNN
from recurlm.variants.kda import KDA
from recurlm.variants.lru import LRU
from recurlm.variants.lstm import LSTM
from recurlm.variants.m2rnn import M2RNN
from recurlm.variants.mamba2 import Mamba2
from recurlm.variants.mamba3 import Mamba3
from recurlm.variants.mingru import MinGRU
from recurlm.variants.minlstm import MinLSTM
from recurlm.variants.mlstm import MLSTM
from recurlm.variants.mogrifier import Mogrifier
from recurlm.variants.paragru import ParaGRU
from recurlm.variants.qrnn import QRNN
from recurlm.variants.retnet import RetNet
from recurlm.variants.rglru import RGLRU
from recurlm.variants.rnn import RNN
from recurlm.variants.rwkv7 import RWKV7
from recurlm.variants.slstm import SLSTM
from recurlm.variants.sru import SRU
from recurlm.variants.transformer import Transformer

REGISTRY: dict[str, type[Recurrence]] = {
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "mogrifier": Mogrifier,
    "sru": SRU,
    "indrnn": IndRNN,
    "slstm": SLSTM,
    "paragru": ParaGRU,
    "qrnn": QRNN,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "lru": LRU,
    "rglru": RGLRU,
    "hgrn": HGRN,
    "retnet": RetNet,
    "gla": GLA,
    "hgrn2": HGRN2,
    "mamba2": Mamba2,
    "mlstm": MLSTM,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "deltaproduct": DeltaProduct,
    "kda": KDA,
    "mamba3": Mamba3,
    "rwkv7": RWKV7,
    "m2rnn": M2RNN,
    "transformer": Transformer,
}
