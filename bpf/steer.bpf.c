//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Runs in a pod's network namespace for each lookup of a listening or unconnected socket, so the common way out is
// short. It hands connections to the prefix to the pod's listener, whatever port they are to, and to nobody else.
#include "shared.h"

#define LO_IFINDEX 1

// The hook cannot ask for the namespace it runs in: each pod has a program of its own.
const volatile __u64 netns_cookie = 0;
const volatile __u32 listener_port = 0;

static __always_inline bool is_ipv6_loopback(struct bpf_sk_lookup *ctx)
{
	return !ctx->local_ip6[0] && !ctx->local_ip6[1] && !ctx->local_ip6[2] && ctx->local_ip6[3] == bpf_htonl(1);
}

static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 family, __be32 id)
{
	struct listener_key key = { .netns = netns_cookie, .family = family };
	struct bpf_sock *listener;
	long error;

	// The prefix is ours to send to, over lo. A neighbour could route it at the pod.
	if (ctx->ingress_ifindex != LO_IFINDEX) {
		count(COUNTER_PREFIX_FROM_OUTSIDE);
		return SK_DROP;
	}
	if (!id)
		return SK_DROP; // refused, and counted, by the connect hook
	listener = bpf_map_lookup_elem(&listeners, &key);
	if (!listener) {
		// Never left to the application, which may listen on the wildcard.
		count(COUNTER_STEER_NO_LISTENER);
		return SK_DROP;
	}
	// Without the flag the kernel would choose among all sockets that share the port by SO_REUSEPORT, also one of an
	// agent that has been replaced.
	error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(listener);
	if (error) {
		count(COUNTER_STEER_FAILED);
		return SK_DROP;
	}
	count(COUNTER_STEERED);
	return SK_PASS;
}

// Only what we steer may reach the listener. Its address is not the prefix, so the proxy could not tell what it is.
static __always_inline int guard(struct bpf_sk_lookup *ctx, bool loopback)
{
	if (!loopback || ctx->local_port != listener_port)
		return SK_PASS;
	count(COUNTER_LISTENER_DIALLED);
	return SK_DROP;
}

SEC("sk_lookup")
int sluice_steer(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	if (ctx->family == AF_INET) {
		__be32 local = ctx->local_ip4;

		if (in_prefix4(local))
			return steer(ctx, AF_INET, local & bpf_htonl(FRONTEND_ID_MAX));
		return guard(ctx, local == bpf_htonl(INADDR_LOOPBACK));
	}
	if (in_prefix6(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2]))
		return steer(ctx, AF_INET6, ctx->local_ip6[3]);
	return guard(ctx, is_ipv6_loopback(ctx));
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
