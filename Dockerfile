# pgvision serve in a container.
#
#   docker build -t pgvision .                                        on a processor
#   docker build -t pgvision:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run -p 127.0.0.1:8000:8000 -e PGVISION_API_KEY=secret --stop-timeout 40 pgvision
#                                                                     (--gpus all for the second)
#
# Without a key the container does not start: set PGVISION_API_KEY, or PGVISION_NO_KEY=1 where
# nobody else reaches the port. --stop-timeout lets requests in progress end.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# OpenCV's libraries. Debian's point releases replace packages, so their versions are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY pgvision pgvision
COPY vqvae vqvae
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt '.[serve]' \
    && rm -rf /src/build /src/*.egg-info

RUN useradd --create-home --uid 10001 pgvision
USER 10001
WORKDIR /home/pgvision

ENV PGVISION_HOST=0.0.0.0 PGVISION_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PGVISION_PORT'] + '/readyz')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgvision"]
CMD ["serve"]
