package observe

import "strconv"

// String is the number of the status, "" when there was none. It is a label.
func (g GRPC) String() string {
	if !g.Known {
		return ""
	}
	return strconv.Itoa(int(g.Code))
}
