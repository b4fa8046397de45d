"""A camera that speaks RTSP: H.264 in RTP packets over its one TCP connection (RFC 2326, 10.12).

``python rtsp.py PORT FPS COUNT``, as camera.py. FFmpeg's own muxer makes the packets.
"""

import socketserver
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

import av

sys.path.insert(0, str(Path(__file__).parent))
from camera import picture

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:track0\r\n"
)
H264 = {"preset": "ultrafast", "tune": "zerolatency", "g": "10", "threads": "1"}


class _Interleaved:
    """Takes one packet with each write; channel 0 is for pictures, 1 for reports on them."""

    def __init__(self, wire: BinaryIO) -> None:
        self._wire = wire

    def write(self, packet: bytes) -> int:
        is_report = 200 <= packet[1] <= 204
        self._wire.write(struct.pack(">cBH", b"$", is_report, len(packet)) + packet)
        self._wire.flush()
        return len(packet)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline().decode():
            heads = {}
            while (head := self.rfile.readline().decode().strip()) != "":
                name, _, value = head.partition(":")
                heads[name.lower()] = value.strip()
            self._answer(line.split()[0], heads)

    def _answer(self, method: str, heads: dict[str, str]) -> None:
        status, more, body = "200 OK", "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n", SDP
        elif method == "SETUP" and "TCP" in heads["transport"]:
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1;timeout=3600\r\n"
        elif method == "SETUP":
            status = "461 Unsupported Transport"
        reply = f"RTSP/1.0 {status}\r\nCSeq: {heads['cseq']}\r\n{more}\r\n{body}"
        self.wfile.write(reply.encode())
        if method == "PLAY":
            self._play(self.server.fps, self.server.count)

    def _play(self, fps: float, count: int) -> None:
        told = {"packetsize": "1400"}
        with av.open(_Interleaved(self.wfile), "w", format="rtp", options=told) as rtp:
            stream = rtp.add_stream("libx264", rate=round(fps), options=H264)
            stream.height, stream.width = picture(0).shape[:2]
            stream.pix_fmt = "yuv420p"
            began = time.monotonic()
            for index in range(count):
                rtp.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), "bgr24")))
                time.sleep(max(0.0, began + (index + 1) / fps - time.monotonic()))


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that has seen enough hangs up."""


if __name__ == "__main__":
    port, fps, count = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.fps, server.count = fps, count
        print(f"rtsp://127.0.0.1:{port}/live", flush=True)  # noqa: T201
        server.serve_forever()
