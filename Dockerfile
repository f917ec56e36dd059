# Runs the demo on a CPU:
#   docker build -t scenetok-ns .
#   docker run --rm --user "$(id -u)" -e HOME=/tmp -v "$PWD/demo:/data/demo" scenetok-ns
# With an NVIDIA GPU, add --gpus all to `docker run`. For a smaller image without CUDA, build with
#   --build-arg TORCH_ARGS="--index-url URL", where URL is PyTorch's index of CPU wheels.
FROM python:3.11-slim

# git: the package's own build; libgl1, libglib2.0-0, libgomp1, libx11-6: libraries that Open3D and OpenCV load.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgl1 libglib2.0-0 libgomp1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_ARGS=""
RUN pip install --no-cache-dir torch torchvision $TORCH_ARGS

WORKDIR /opt/scenetok_ns
COPY pyproject.toml README.md LICENSE LICENSE-weights.md ./
COPY configs configs
COPY scenetok_ns scenetok_ns
RUN pip install --no-cache-dir '.[capture]' 'open3d<0.20'

RUN useradd --create-home user && mkdir /data && chown user /data
USER user
WORKDIR /data
ENV OMP_WAIT_POLICY=PASSIVE
# The viewer's port: docker run -p 7007:7007 scenetok-ns ns-viewer --load-config ...
EXPOSE 7007
CMD ["scenetok", "demo"]
