"""Files of tensors, torch's .pt and .safetensors, read without trusting them: no code in them is run."""

import json
import zipfile
from pathlib import Path

import torch

from util.errors import fail

# the types of numbers in a .safetensors file
DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
          'I64': torch.int64}


def read_pt(path):
    """What torch.save wrote: plain Python values and tensors, on the CPU. Fails if the file is damaged."""
    try:
        check_archive(path)
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = f': {error}' if type(error) is ValueError else ''
        fail(f'{path} is no checkpoint, or it is damaged or cut short ({type(error).__name__}{reason})')


def check_archive(path):
    """Raise ValueError if the parts of a .pt file, a zip archive, are not as torch.save writes them."""
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED:  # it could unpack to any size
                raise ValueError('packed')
        if archive.testzip() is not None:  # torch.load does not compare the checksums
            raise ValueError('wrong checksum')


def read_safetensors(path):
    """
    {name: tensor}. The file holds the length of its header in 8 bytes, the header in JSON, which gives the
    dtype, shape and place of each tensor, and then all numbers (github.com/huggingface/safetensors). Errors: as
    json and torch raise.
    """
    path = Path(path)
    with open(path, 'rb') as f:
        header_size = int.from_bytes(f.read(8), 'little')
        if header_size > path.stat().st_size:
            raise ValueError('its header would be longer than the file')
        header = json.loads(f.read(header_size))
        numbers = bytearray(f.read())
    header.pop('__metadata__', None)
    claimed = 0
    for entry in header.values():
        start, end = entry['data_offsets']
        claimed += end - start
    if claimed > len(numbers):  # tensors that share their numbers could fill any memory
        raise ValueError(f'its tensors would take {claimed:,} bytes, of which {len(numbers):,} are there')
    tensors = {}
    for name, entry in header.items():
        start, end = entry['data_offsets']
        values = torch.frombuffer(numbers[start:end], dtype=DTYPES[entry['dtype']])
        tensors[name] = values.view(entry['shape'])
    return tensors
