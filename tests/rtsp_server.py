"""An RTSP server over one H.264 mp4, for the system's Python: rtsp_server.py FILE PORT. Needs GStreamer's server."""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_service(sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( filesrc location={sys.argv[1]} ! qtdemux ! h264parse ! rtph264pay name=pay0 config-interval=1 )")
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
GLib.MainLoop().run()
