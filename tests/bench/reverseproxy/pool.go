package main

import "sync"

// pool gives the proxy its copy buffers again: without it each response allocates one of 32 KiB.
type pool struct{ sync.Pool }

func newPool() *pool {
	return &pool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
}

// Get and Put are httputil.BufferPool.
func (p *pool) Get() []byte  { return *p.Pool.Get().(*[]byte) }
func (p *pool) Put(b []byte) { p.Pool.Put(&b) }
