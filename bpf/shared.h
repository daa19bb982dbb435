/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the connect hooks and the steering share: two maps, and the tests for the prefix. */
#ifndef SLUICE_SHARED_H
#define SLUICE_SHARED_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

/* From <linux/socket.h>, which the user API does not carry. */
#define AF_INET 2
#define AF_INET6 10

/* The pods' listeners. The kernel takes an entry out when the last descriptor of its socket closes. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8192);
	__type(key, struct listener_key);
	__type(value, __u64);
} listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* A connect can be preempted by the softirq that steers it, on the same CPU: hence the atomic addition. */
static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline bool in_prefix4(__be32 address)
{
	return (address & bpf_htonl(~FRONTEND_ID_MAX)) == bpf_htonl(PREFIX_V4);
}

static __always_inline bool in_prefix6(__be32 a0, __be32 a1, __be32 a2)
{
	return a0 == bpf_htonl(((__u32)PREFIX_V6_0 << 16) | PREFIX_V6_1) && a1 == bpf_htonl((__u32)PREFIX_V6_2 << 16) && !a2;
}

#endif
