package report

import (
	"encoding/json"
	"math"
	"strconv"
)

// JSON renders the report, with as many digits as mean something.
func (r *Report) JSON() ([]byte, error) {
	c := *r
	c.Rows = make([]Row, len(r.Rows))
	for i, row := range r.Rows {
		for _, v := range []**float64{
			&row.CPU, &row.Ratio, &row.RatioMin, &row.RatioMax, &row.RPS, &row.P50, &row.P99, &row.P999, &row.Late, &row.RSS, &row.Unused, &row.Idle, &row.IdleRatio,
		} {
			if *v != nil {
				*v = new(significant(**v))
			}
		}
		c.Rows[i] = row
	}
	c.Noise = make([]Noise, len(r.Noise))
	for i, n := range r.Noise {
		n.Median, n.Min, n.Max = significant(n.Median), significant(n.Min), significant(n.Max)
		c.Noise[i] = n
	}
	b, err := json.MarshalIndent(&c, "", "  ")
	return append(b, '\n'), err
}

// significant rounds to four digits.
func significant(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v == 0 {
		return 0
	}
	f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	if err != nil { // FormatFloat wrote it
		return v
	}
	return f
}
