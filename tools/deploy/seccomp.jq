# Allows io_uring in a seccomp profile as Docker, Podman and containerd write them.
.syscalls += [{names: ["io_uring_setup", "io_uring_enter", "io_uring_register"], action: "SCMP_ACT_ALLOW"}]
