//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
// Hooks of the cgroup above the pods. connect(2) to a frontend is rewritten to an address of the prefix that holds the
// frontend's id; getpeername(2) and getsockname(2) show the application what it would see without us.
#include "shared.h"

#define SOCK_STREAM 1
#define ECONNREFUSED 111

#define GO_ON 1
#define FAIL 0

// From Linux 5.18. Without it a refusal is a connect to id 0, which the steering drops: the same for the application.
const volatile bool have_set_retval = false;

// Only for its type: BTF holds what a map or a variable uses, and Go takes the constants from BTF.
const enum prefix *prefix_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct pod);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

// CLOCK_MONOTONIC of the proxy's last proof of progress. The proxy maps it, so that beating costs no system call.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} heartbeat SEC(".maps");

// Not read here: the agent keeps it beside the frontends, so that it survives the agent.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct numbering);
} numbering SEC(".maps");

// What the application dialled, on a socket that was redirected.
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct frontend_key);
} origins SEC(".maps");

// On a socket that was let through although a frontend was dialled. Never evicted, and gone with the socket.
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct bypass_record);
} bypassed SEC(".maps");

enum verdict {
	LEAVE,
	REDIRECT,
	REFUSE,
};

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && (ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP);
}

static __always_inline bool is_enrolled(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);

	return bpf_map_lookup_elem(&pods, &netns);
}

// accepts tells whether a proxy takes connections of the namespace; if not, *reason says why.
static __always_inline bool accepts(__u64 netns, __u32 family, __u64 limit, enum counter *reason)
{
	struct listener_key key = { .netns = netns, .family = family };
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &key);
	volatile __u64 *beat;
	__u32 zero = 0;

	*reason = COUNTER_NO_LISTENER;
	if (!listener)
		return false;
	bpf_sk_release(listener);
	*reason = COUNTER_STALE_HEARTBEAT;
	beat = bpf_map_lookup_elem(&heartbeat, &zero);
	if (!beat)
		return false;
	// Signed: the proxy may have written a later time than ours while we were on our way here.
	return (__s64)(bpf_ktime_get_ns() - *beat) <= (__s64)limit;
}

// direct records that a frontend was dialled without us.
static __always_inline enum verdict direct(struct bpf_sock_addr *ctx, const struct frontend_key *key,
					   enum counter reason)
{
	struct bypass_record *record = bpf_sk_storage_get(&bypassed, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	count(reason);
	if (record) {
		record->frontend = *key;
		record->reason = reason;
	}
	return LEAVE;
}

static __always_inline enum verdict refused(void)
{
	count(COUNTER_REFUSED);
	return REFUSE;
}

// route decides on a connect of an enrolled pod to a frontend.
static __always_inline enum verdict route(struct bpf_sock_addr *ctx, const struct frontend_key *key, enum flag flags,
					  const struct settings *now, __u32 family)
{
	bool closed = flags & FLAG_FAIL_CLOSED;
	struct frontend_key *origin;
	enum counter reason;

	if (now->bypass)
		return direct(ctx, key, COUNTER_BYPASS_SWITCH);
	if (flags & FLAG_PASS_THROUGH) {
		count(COUNTER_PASS_THROUGH);
		return LEAVE;
	}
	if (flags & FLAG_NO_ENDPOINTS)
		return refused();
	if (ctx->sk->bound_dev_if) {
		count(COUNTER_BOUND_TO_DEVICE);
		return closed ? refused() : LEAVE;
	}
	if (!accepts(bpf_get_netns_cookie(ctx), family, now->heartbeat_limit, &reason)) {
		if (!closed)
			return direct(ctx, key, reason);
		count(reason);
		return refused();
	}
	origin = bpf_sk_storage_get(&origins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!origin) {
		count(COUNTER_NO_MEMORY);
		return closed ? refused() : LEAVE;
	}
	*origin = *key;
	count(COUNTER_REDIRECTED);
	return REDIRECT;
}

// decide is asked on each connect of a TCP socket. Most are to no frontend: two lookups end here.
static __always_inline enum verdict decide(struct bpf_sock_addr *ctx, const struct frontend_key *key, __u32 family,
					   bool to_prefix, __u32 *id)
{
	struct frontend *frontend;
	struct settings *now;
	__u32 zero = 0;
	__u64 cgroup;

	// A socket may connect again after AF_UNSPEC: what is known of its last connection does not hold. Nearly always there
	// is nothing, and to see that costs less than to delete it: no reference to the socket is taken.
	if (bpf_sk_storage_get(&origins, ctx->sk, 0, 0))
		bpf_sk_storage_delete(&origins, ctx->sk);
	if (bpf_sk_storage_get(&bypassed, ctx->sk, 0, 0))
		bpf_sk_storage_delete(&bypassed, ctx->sk);

	frontend = bpf_map_lookup_elem(&frontends, key);
	if (!frontend) {
		if (!to_prefix || !is_enrolled(ctx))
			return LEAVE;
		count(COUNTER_PREFIX_DIALLED);
		return REFUSE;
	}
	now = bpf_map_lookup_elem(&settings, &zero);
	if (!now)
		return LEAVE;
	cgroup = bpf_get_current_cgroup_id();
	if (cgroup == now->proxy_cgroups[0] || cgroup == now->proxy_cgroups[1]) {
		count(COUNTER_EXEMPT);
		return LEAVE;
	}
	if (!is_enrolled(ctx)) {
		count(COUNTER_NOT_ENROLLED);
		return LEAVE;
	}
	*id = frontend->id & FRONTEND_ID_MAX;
	return route(ctx, key, frontend->flags, now, family);
}

SEC("cgroup/connect4")
int sluice_connect4(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .protocol = IPPROTO_TCP };
	__be32 address;
	__u32 id = 0;

	if (!is_tcp(ctx))
		return GO_ON;
	address = ctx->user_ip4;
	key.address[10] = key.address[11] = 0xff;
	__builtin_memcpy(key.address + 12, &address, sizeof(address));
	key.port = bpf_ntohs((__be16)ctx->user_port);

	switch (decide(ctx, &key, AF_INET, in_prefix4(address), &id)) {
	case LEAVE:
		return GO_ON;
	case REFUSE:
		if (have_set_retval) {
			bpf_set_retval(-ECONNREFUSED);
			return FAIL;
		}
		id = 0;
		break;
	case REDIRECT:
		break;
	}
	ctx->user_ip4 = bpf_htonl(PREFIX_V4 | id);
	return GO_ON;
}

SEC("cgroup/connect6")
int sluice_connect6(struct bpf_sock_addr *ctx)
{
	struct frontend_key key = { .protocol = IPPROTO_TCP };
	__be32 a[4];
	__u32 id = 0;
	bool mapped;

	if (!is_tcp(ctx))
		return GO_ON;
	a[0] = ctx->user_ip6[0];
	a[1] = ctx->user_ip6[1];
	a[2] = ctx->user_ip6[2];
	a[3] = ctx->user_ip6[3];
	mapped = !a[0] && !a[1] && a[2] == bpf_htonl(0xffff);
	__builtin_memcpy(key.address, a, sizeof(a));
	key.port = bpf_ntohs((__be16)ctx->user_port);

	switch (decide(ctx, &key, mapped ? AF_INET : AF_INET6,
		       mapped ? in_prefix4(a[3]) : in_prefix6(a[0], a[1], a[2]), &id)) {
	case LEAVE:
		return GO_ON;
	case REFUSE:
		if (have_set_retval) {
			bpf_set_retval(-ECONNREFUSED);
			return FAIL;
		}
		id = 0;
		break;
	case REDIRECT:
		break;
	}
	if (mapped) {
		ctx->user_ip6[3] = bpf_htonl(PREFIX_V4 | id);
		return GO_ON;
	}
	ctx->user_ip6[0] = bpf_htonl(((__u32)PREFIX_V6_0 << 16) | PREFIX_V6_1);
	ctx->user_ip6[1] = bpf_htonl((__u32)PREFIX_V6_2 << 16);
	ctx->user_ip6[2] = 0;
	ctx->user_ip6[3] = bpf_htonl(id);
	return GO_ON;
}

static __always_inline struct frontend_key *origin_of(struct bpf_sock_addr *ctx)
{
	return is_tcp(ctx) ? bpf_sk_storage_get(&origins, ctx->sk, 0, 0) : 0;
}

static __always_inline struct pod *pod_of(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);

	return bpf_map_lookup_elem(&pods, &netns);
}

SEC("cgroup/getpeername4")
int sluice_peer4(struct bpf_sock_addr *ctx)
{
	struct frontend_key *origin = origin_of(ctx);
	__be32 address;

	if (!origin)
		return GO_ON;
	__builtin_memcpy(&address, origin->address + 12, sizeof(address));
	ctx->user_ip4 = address;
	ctx->user_port = bpf_htons(origin->port);
	return GO_ON;
}

SEC("cgroup/getpeername6")
int sluice_peer6(struct bpf_sock_addr *ctx)
{
	struct frontend_key *origin = origin_of(ctx);
	__be32 a[4];

	if (!origin)
		return GO_ON;
	__builtin_memcpy(a, origin->address, sizeof(a));
	ctx->user_ip6[0] = a[0];
	ctx->user_ip6[1] = a[1];
	ctx->user_ip6[2] = a[2];
	ctx->user_ip6[3] = a[3];
	ctx->user_port = bpf_htons(origin->port);
	return GO_ON;
}

// shown4 is what an application sees as its own IPv4 address: its pod's where the kernel chose a loopback address,
// and else what it bound to. Software that tells others where it can be reached depends on it.
static __always_inline __be32 shown4(struct bpf_sock_addr *ctx, __be32 address)
{
	struct pod *pod;
	__be32 own;

	if ((bpf_ntohl(address) >> 24) != 127)
		return address;
	pod = pod_of(ctx);
	if (!pod)
		return address;
	__builtin_memcpy(&own, pod->ipv4, sizeof(own));
	return own ? own : address;
}

SEC("cgroup/getsockname4")
int sluice_sock4(struct bpf_sock_addr *ctx)
{
	if (origin_of(ctx))
		ctx->user_ip4 = shown4(ctx, ctx->user_ip4);
	return GO_ON;
}

SEC("cgroup/getsockname6")
int sluice_sock6(struct bpf_sock_addr *ctx)
{
	struct pod *pod;
	__be32 a[4];

	if (!origin_of(ctx))
		return GO_ON;
	a[0] = ctx->user_ip6[0];
	a[1] = ctx->user_ip6[1];
	a[2] = ctx->user_ip6[2];
	if (!a[0] && !a[1] && a[2] == bpf_htonl(0xffff)) {
		ctx->user_ip6[3] = shown4(ctx, ctx->user_ip6[3]);
		return GO_ON;
	}
	if (!in_prefix6(a[0], a[1], a[2]))
		return GO_ON;
	pod = pod_of(ctx);
	if (!pod)
		return GO_ON;
	__builtin_memcpy(a, pod->ipv6, sizeof(a));
	if (!(a[0] | a[1] | a[2] | a[3]))
		return GO_ON;
	ctx->user_ip6[0] = a[0];
	ctx->user_ip6[1] = a[1];
	ctx->user_ip6[2] = a[2];
	ctx->user_ip6[3] = a[3];
	return GO_ON;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
