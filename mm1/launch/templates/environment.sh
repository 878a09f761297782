export PYTHONUNBUFFERED=1 # a line is in the log when it is written, not 8 KB later
export PYTHONFAULTHANDLER=1 # a rank that crashes in C++ says where it was in Python
# torchrun's default is one thread for each rank; these share the cores of the machine.
threads=$(($(nproc) / {{ ranks_per_machine }}))
export OMP_NUM_THREADS=$((threads > 1 ? threads : 1))
# The images of a micro-batch vary in number: segments of a fixed size leave holes.
export PYTORCH_ALLOC_CONF=expandable_segments:True
export NCCL_DEBUG=WARN # NCCL names the link or the interface that fails
# A collective that fails ends its process, and torchrun starts the ranks again.
export TORCH_NCCL_ASYNC_ERROR_HANDLING=3
# Ranks that are started again meet in a store of their own: in the shared one are addresses of
# those that are gone, and the agents of several nodes do not count starts alike.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={{ job.shutdown_timeout + 5 }} # from SIGTERM to SIGKILL: time to save
export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE='[rank${rank}]: ' # whose line it is
{% for setting in job.environment %}
export {{ setting.name }}={{ setting.value | sh }}
{% endfor %}
