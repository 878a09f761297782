# mm1 on NVIDIA GPUs: the host needs a driver for CUDA 13 and NVIDIA's container toolkit;
# CUDA's libraries come with torch. From the root of the repository:
#
#     docker build --file docker/cuda.Dockerfile --tag mm1-cuda .
#     docker run --rm --gpus all --ipc host --volume "$PWD:/work" mm1-cuda \
#         train pretrain_small --out runs/first
#     docker run --rm --gpus all --ipc host --volume "$PWD:/work" \
#         --entrypoint torchrun mm1-cuda \
#         --nproc-per-node 8 -m mm1.cli train pretrain_3b --out runs/3b
#
# --ipc host: workers hand images over through shared memory, of which a container has 64 MB.
FROM python:3.12-slim
# torch.compile writes C++ and Triton kernels, and calls a compiler for both
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mm1 mm1
RUN pip install --no-cache-dir --constraint constraints.txt ".[miniature,chat,logging]"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
ENTRYPOINT ["mm1"]
CMD ["--help"]
