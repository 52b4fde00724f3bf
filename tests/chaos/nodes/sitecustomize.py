"""Imported by each Python process of a campaign's Ray cluster when it starts: its fsyncs are noted from then on."""

import os

from tests.chaos.zygote import FSYNC_LOG, note_fsyncs

if path := os.environ.get(FSYNC_LOG):
    note_fsyncs(path)
