"""The networks in plain torch: tensors in, tensors out, nothing known of photos, cards or files.

`topdown` lays out the published pose networks from a backbone (`vit`) and a head (`heads`); our own small one
is `small` on `efficientnet`; the detectors are `rtmdet` and `rtmdet_ins` on `cspnext`. `maps` holds the torch
twins of sparsemax, the decoders and the flip average. Every pose network answers ``forward(images, outputs)``
with a dict of the outputs named. Nothing is imported here: whoever needs a network imports its module, and
torch.
"""
