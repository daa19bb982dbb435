package bpf

// The headers are those of Debian's libbpf-dev and linux-libc-dev; <asm/types.h> is in the folder of the machine that
// generates, and says the same in each. clang 14 and these packages make the same bytes wherever the tree lies.

//go:generate go tool bpf2go -target amd64,arm64 -output-stem redirect -cflags "-Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type layout -type prefix -type flag -type counter -type bypass_record Redirect redirect.bpf.c
//go:generate go tool bpf2go -target amd64,arm64 -output-stem steer -cflags "-Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -no-global-types Steer steer.bpf.c
