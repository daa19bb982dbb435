package message

// IsGRPC tells whether r is a call of gRPC: its protocol has one method, POST, and one media type, application/grpc, which a
// suffix such as "+proto" or a parameter may follow. So application/grpc-web, another protocol, is none.
func (r *Request) IsGRPC() bool {
	const mediaType = "application/grpc"
	if r.Method != "POST" {
		return false
	}
	value, _ := r.Fields.Get("content-type")
	if len(value) < len(mediaType) || !EqualName(value[:len(mediaType)], mediaType) { // RFC 9110, 8.3.1: in any case
		return false
	}
	return len(value) == len(mediaType) || value[len(mediaType)] == '+' || value[len(mediaType)] == ';'
}
