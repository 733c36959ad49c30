"""Videos: frames matched by time and content, scored one after the other, and pooled."""

from msds_plugin.adapters.video.pool import check_plot, plot_over_time, pool, read_log, write_log
from msds_plugin.adapters.video.read import VideoFileError
from msds_plugin.adapters.video.score import FrameScores, VideoScores, score_video

__all__ = [
    "FrameScores",
    "VideoFileError",
    "VideoScores",
    "check_plot",
    "plot_over_time",
    "pool",
    "read_log",
    "score_video",
    "write_log",
]
