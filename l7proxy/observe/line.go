package observe

import (
	"encoding/json/jsontext"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/l7proxy/model"
)

// appendLine appends an exchange as one line of JSON. Every line has the same keys, named as the labels of the metrics
// are where they mean the same.
func appendLine(b []byte, rec *Record) []byte {
	b = append(b, `{"time":"`...)
	b = rec.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","duration_ms":`...)
	b = strconv.AppendFloat(b, float64(rec.Duration)/float64(time.Millisecond), 'f', 3, 64)
	b = appendText(b, "method", rec.Method)
	b = appendText(b, "authority", rec.Authority)
	b = appendText(b, "path", rec.Path)
	b = appendNumber(b, "status", int64(rec.Status))
	b = appendText(b, "grpc_status", rec.GRPC.String())
	b = appendText(b, "failure", rec.Failure)
	b = appendNumber(b, "request_bytes", rec.RequestBytes)
	b = appendNumber(b, "response_bytes", rec.ResponseBytes)
	b = appendNumber(b, "attempts", int64(rec.Attempts))
	b = append(b, `,"endpoint":"`...)
	if rec.Endpoint.IsValid() {
		b = rec.Endpoint.AppendTo(b)
	}
	b = append(b, '"')
	b = appendWho(b, rec)
	return append(b, '}', '\n')
}

func appendWho(b []byte, rec *Record) []byte {
	pod := rec.Client
	if pod == nil {
		pod = &model.Pod{}
	}
	client := clientOf(pod)
	b = appendText(b, "client", client.name)
	b = appendText(b, "client_namespace", client.namespace)
	b = appendText(b, "client_pod", pod.Name)
	scope := scopeOf(rec.Service, rec.Port, rec.Rule, rec.Backend)
	b = appendText(b, "service", scope.service.Name)
	b = appendText(b, "service_namespace", scope.service.Namespace)
	b = appendNumber(b, "port", int64(scope.port))
	var room [256]byte // names are short, mostly
	b = appendText(b, "route", scope.appendRoute(room[:0]))
	b = appendText(b, "rule", scope.rule)
	return appendText(b, "backend", scope.appendBackend(room[:0]))
}

func appendText[T string | []byte](b []byte, key string, value T) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	b, _ = jsontext.AppendQuote(b, value) // its error says that it replaced what is not UTF-8
	return b
}

func appendNumber(b []byte, key string, value int64) []byte {
	b = append(b, ',', '"')
	b = append(b, key...)
	b = append(b, '"', ':')
	return strconv.AppendInt(b, value, 10)
}
