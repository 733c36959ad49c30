"""Videos: frames matched by time stamp, scored one after the other, and pooled."""

from .pool import pool
from .read import VideoFileError, VideoInfo, is_video, probe
from .score import FrameScores, score_video
from .write import plot_over_time

__all__ = ["FrameScores", "VideoFileError", "VideoInfo", "is_video", "plot_over_time", "pool", "probe", "score_video"]
