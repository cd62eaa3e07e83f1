package sql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"github.com/chartergate/chartergate/store"
)

// unavailable makes what a database says store.ErrUnavailable; errors of ours stay.
func unavailable(err error) error {
	if err == nil || errors.Is(err, store.ErrUnavailable) {
		return err
	}
	_, lite := errors.AsType[*sqlite.Error](err)
	answer, pg := errors.AsType[*pgconn.PgError](err)
	if pg {
		switch answer.Code[:2] {
		case "08", "40", "53", "55", "57", "58": // connection, rollback, resources, locks, operator, system
		default:
			pg = false
		}
	}
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone)
	if lite || pg || connect || network || ended {
		return fmt.Errorf("%w: %w", store.ErrUsageUnavailable, err)
	}
	return err
}
