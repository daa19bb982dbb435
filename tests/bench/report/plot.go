package report

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// The geometry of the plot, in pixels.
const (
	plotWidth = 900
	plotLeft  = 190
	plotRight = 24
	plotTop   = 74
	barHeight = 9
	barGap    = 3
	groupGap  = 16
)

// SVG plots the CPU per request, call or message as a ratio to HAProxy's: a bar to the median, a line from the least to the greatest. The
// scale is logarithmic, and bars grow from 1: to the left is cheaper than HAProxy.
func (r *Report) SVG() []byte {
	groups := r.groups()
	lo, hi := bounds(groups)
	x := func(v float64) float64 {
		return plotLeft + (plotWidth-plotLeft-plotRight)*math.Log(v/lo)/math.Log(hi/lo)
	}
	var body strings.Builder
	y := float64(plotTop)
	for _, g := range groups {
		height := float64(len(g.rows))*(barHeight+barGap) - barGap
		fmt.Fprintf(&body, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft-12, y+height/2+4, html.EscapeString(g.name))
		for _, row := range g.rows {
			bar(&body, row, x, y)
			y += barHeight + barGap
		}
		y += groupGap - barGap
	}
	bottom := y - groupGap/2
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" viewBox="0 0 %d %.0f" font-family="sans-serif" font-size="12" fill="#333">`+"\n",
		plotWidth, bottom+30, plotWidth, bottom+30)
	fmt.Fprintf(&b, `<rect width="%d" height="%.0f" fill="#fff"/>`+"\n", plotWidth, bottom+30)
	fmt.Fprintf(&b, `<text x="16" y="24" font-size="15" font-weight="bold">CPU per request, call or message as a ratio to HAProxy's, by workload</text>`+"\n")
	legend(&b, groups)
	for v := lo; v <= hi*1.001; v *= 2 {
		colour, width := "#ddd", 1
		if math.Abs(v-1) < 1e-9 {
			colour, width = "#333", 2
		}
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%.1f" stroke="%s" stroke-width="%d"/>`+"\n", x(v), x(v), plotTop-10, bottom, colour, width)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%g</text>`+"\n", x(v), bottom+18, v)
	}
	b.WriteString(body.String())
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// bar draws one proxy. The line ends carry the spread; the title is what a browser shows under the pointer.
func bar(b *strings.Builder, row Row, x func(float64) float64, y float64) {
	from, to := x(1), x(*row.Ratio)
	middle := y + barHeight/2.0
	fmt.Fprintf(b, `<g><title>%s, %s: %.2f (%.2f to %.2f)</title>`, html.EscapeString(row.Workload), html.EscapeString(row.Proxy), *row.Ratio, *row.RatioMin, *row.RatioMax)
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`, min(from, to), y, max(1, math.Abs(to-from)), barHeight, colour(row.Proxy))
	fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#000" stroke-width="1.5"/></g>`+"\n", x(*row.RatioMin), x(*row.RatioMax), middle, middle)
}

type group struct {
	name string
	rows []Row
}

// groups are the rows that have a ratio, without the reference itself, by workload.
func (r *Report) groups() []group {
	var out []group
	for _, w := range r.Workloads {
		g := group{name: w.Name}
		for _, row := range r.Rows {
			if row.Workload == w.Name && row.Proxy != Reference && row.Ratio != nil && *row.RatioMin > 0 {
				g.rows = append(g.rows, row)
			}
		}
		if len(g.rows) > 0 {
			out = append(out, g)
		}
	}
	return out
}

// bounds are the powers of two around all values, 0.5 to 2 at least.
func bounds(groups []group) (lo, hi float64) {
	lo, hi = 0.5, 2
	for _, g := range groups {
		for _, row := range g.rows {
			for lo > *row.RatioMin && lo > 1.0/64 {
				lo /= 2
			}
			for hi < *row.RatioMax && hi < 256 {
				hi *= 2
			}
		}
	}
	return lo, hi
}

func legend(b *strings.Builder, groups []group) {
	var names []string
	for _, g := range groups {
		for _, row := range g.rows {
			if !slices.Contains(names, row.Proxy) {
				names = append(names, row.Proxy)
			}
		}
	}
	slices.SortStableFunc(names, func(a, c string) int { return cmp.Compare(order(a), order(c)) })
	at := 16
	for _, name := range names {
		fmt.Fprintf(b, `<rect x="%d" y="38" width="12" height="12" fill="%s"/><text x="%d" y="48">%s</text>`+"\n", at, colour(name), at+17, html.EscapeString(name))
		at += 40 + 8*len(name)
	}
	fmt.Fprintf(b, `<text x="%d" y="48" text-anchor="end">left of 1: cheaper. Bar: median; line: least to greatest</text>`+"\n", plotWidth-plotRight)
}

// order puts ours first.
func order(name string) int {
	if name == Ours {
		return 0
	}
	return 1
}

// colour gives each proxy one, told apart by people who see no red or green too (Okabe and Ito).
func colour(proxy string) string {
	switch proxy {
	case Ours:
		return "#d55e00"
	case "nginx":
		return "#009e73"
	case "envoy":
		return "#56b4e9"
	case "reverseproxy":
		return "#0072b2"
	case "bareloop", "bareh2":
		return "#999999"
	}
	return "#cc79a7"
}
