# mm1 without a GPU. From the root of the repository:
#
#     docker build --file docker/cpu.Dockerfile --tag mm1 .
#     mkdir -p runs                      # or Docker makes it, and root alone may write there
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/runs:/work/runs" mm1 demo
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/runs:/work/runs" \
#         --publish 127.0.0.1:8000:8000 \
#         mm1 chat runs/demo/finetune --host 0.0.0.0      # prints the token that the page needs
#
# `--build-arg TORCH_INDEX=URL` names PyTorch's index of CPU builds; without it pip takes
# what its own index has, on x86-64 a CUDA build of some gigabytes, which also runs here.
FROM python:3.12-slim
ARG TORCH_INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY mm1 mm1
RUN pip install --no-cache-dir --constraint constraints.txt \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11,<2.14" \
    && pip install --no-cache-dir --constraint constraints.txt ".[miniature,chat]"
RUN useradd --create-home --uid 1000 mm1 && install --directory --owner mm1 /work
USER mm1
WORKDIR /work
ENTRYPOINT ["mm1"]
CMD ["--help"]
