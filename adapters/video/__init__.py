"""Videos: frames matched by time and content, scored one after the other, and pooled."""

from msds_plugin.adapters.video.pool import pool
from msds_plugin.adapters.video.read import VideoFileError, is_video
from msds_plugin.adapters.video.score import FrameScores, VideoScores, score_video
from msds_plugin.adapters.video.write import check_plot, plot_over_time, write_log

__all__ = [
    "FrameScores",
    "VideoFileError",
    "VideoScores",
    "check_plot",
    "is_video",
    "plot_over_time",
    "pool",
    "score_video",
    "write_log",
]
